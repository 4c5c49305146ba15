"""`python -m bench.suite`: the commands that measure a machine, run one by one into one report."""
