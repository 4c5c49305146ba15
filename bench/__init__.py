"""Measures OpenAI-compatible servers over HTTP; knows nothing of what runs behind them.

The commands are `python -m bench.NAME`:

    throughput  tokens a second of one server, any model
    sweep       one server at many loads: the knee, the highest load that meets an SLO
    compare     two servers side by side, any model
    components  where a request's time goes, any model
    variants    one model under several configurations of its server, any model
    quality     perplexity, task scores, right answers, any model
    agreement   the same load by other people's tools, any model
    suite       sweep, components and variants in one report (`make bench`)
    tenants     one tenant beside another's flood, shares by weight
    overload    ten times what a server can do
    simulate    admission and limits under a virtual clock
    chaos       kills, hang-ups and a full disk, and whether the books are right
    frontend    CPU of a serving process per streamed token and per request, tiny model
    exact       whether every answer is the same however it is asked for, tiny model
    soak        what a server keeps up, and what it keeps, when clients misbehave, tiny model
    profile     a flame graph of the serving process, tiny model
    fake        a scripted server without a model

A command of several files is a package and begins in its `__main__`; `tenancy` is what `tenants`
and `overload` are made of, `load` the load generator of the commands with the tiny model, and
`tiny` that model and its servers. What commands share, each room using those after it:

    utilization  what a server uses meanwhile
    servers      found running or started
    cli          parser, options, progress
    reports      JSON, text, pictures
    datasets     where prompts come from
    measuring    one measurement, closed loop or open
    prompts      what is asked, of exact lengths
    client       one request, timed and judged

Files for load tools of other people (`locustfile.py` with `locust_run.py`, `k6/`) import nothing
that those lack.
"""
