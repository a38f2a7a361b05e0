"""The parts of the benchmarks. Of ``tools/bench_pipeline.py``: who runs, on what input, in which process, and what is reported.

contestants.py  who: each peer and each variant of ours, its input, and which ratios are asked for
inputs.py       what: the one folder of photos, packed or copied into the form that each needs
pack_ffcv.py    FFCV's own writer, in the interpreter that has it
side.py         one longest side: its inputs, its contestants, their rounds
child.py        where: the process of one contestant; peers/ holds one module for each library
peer.py         what that process and its peer agree on
runner.py       the other end of its pipe, and the interleaved rounds
proc.py         CPU time and memory of a process tree
figures.py      rounds -> medians, spreads, ratios
report.py       figures -> table and JSON
chart.py        figures -> bar chart

Of ``tools/bench_storage.py``: cold.py, grown.py, growth.py, opening.py. Of ``tools/bench_startup.py``: start.py.
"""
