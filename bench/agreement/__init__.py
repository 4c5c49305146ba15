"""`python -m bench.agreement`: do other people's load tools find what `bench.throughput` finds?

Every tool is a child process under the same closed loop, with prompts of the same exact length,
against the same server, and right beside a run of `bench.throughput`. Its own report is read.
"""
