"""The parts of the benchmarks. Of ``tools/bench_pipeline.py``: who runs, on what input, in which process, and what is reported.

competitors.py  who: each peer and each variant of ours, its input, and which ratios are reported
inputs.py       what: the one folder of images, packed or copied into the form that each needs
pack_ffcv.py    FFCV's own writer, in the interpreter that has it
size_run.py     one longest side: its inputs, its contestants, their rounds
child.py        where: the process of one contestant; peers/ holds one module for each library
peer.py         the interface between that process and its peer
runner.py       the other end of its pipe, and the interleaved rounds
proc.py         CPU time and memory of a process tree
statistics.py   rounds -> medians, spreads, ratios
report.py       figures -> table and JSON
chart.py        figures -> bar chart

Of ``tools/bench_storage.py``: block_reads.py, cold_cache.py, large_files.py, memory_growth.py, open_cost.py. Of ``tools/bench_startup.py``:
start.py. Of ``tools/bench_contention.py``: contention.py, neighbour.py.
"""
