"""`python -m cxrnode.cli`: the same as the script `cxrnode`."""

from cxrnode.cli import main

if __name__ == "__main__":
    main(prog_name="cxrnode")
