"""The tests. A package, so that `tests.peers` is ours and not one that a library left in site-packages."""
