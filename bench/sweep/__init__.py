"""`python -m bench.sweep`: one server at many loads, where it stops paying, what meets an SLO."""
