"""`python -m cxrnode` is `cxrnode`."""

from cxrnode.cli import main

if __name__ == "__main__":
    main()
