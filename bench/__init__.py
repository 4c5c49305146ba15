"""Measures OpenAI-compatible servers over HTTP; knows nothing of what runs behind them.

The commands are `python -m bench.NAME`:

    throughput  tokens a second of one server, any model
    compare     two servers side by side, any model
    frontend    CPU of a serving process per streamed token and per request, tiny model
    exact       whether every answer is the same however it is asked for, tiny model
    soak        what a server keeps up, and what it keeps, when clients misbehave, tiny model
    profile     a flame graph of the serving process, tiny model
    fake        a scripted server without a model

A command of several files is a package and begins in its `__main__`. `load` is the load generator
of those with the tiny model, `tiny` that model and its servers. The files beside them belong to
`throughput` and `compare`, or to all; only `profile` imports a package.
"""
