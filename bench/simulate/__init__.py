"""Whole lives of many requests, on a virtual clock: the gateway's own admission and limits over a
model of an engine. The one part of the benchmark that imports the gateway.
"""
