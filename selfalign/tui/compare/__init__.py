"""Screen 7: two rounds or two runs (`screen`), and what both say to one prompt (`prompt`).

`sides` reads what is compared, `differences` says it.
"""
