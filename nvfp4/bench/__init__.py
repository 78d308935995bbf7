"""The microbenchmarks behind `nvfp4 bench` and `pytest bench`: the cases once, peers and roofline in the same run.

The files are meant to be imported one by one: `cases` (what), `operands` and `variants` (on what), `timing` (how),
`refcheck` (is it right), `roofline` (how good could it be), `runner` (all of it), and `results`, `report` and `plot`
(the outcome).
"""
