"""The terminal interface: a reader of runs on disk, live or finished.

It hosts no work and holds nothing up: a run goes on whether it is watched or not. Screens read in threads and show
what was read when it comes; all foreign text enters through `selfalign.tui.shown`.
"""
