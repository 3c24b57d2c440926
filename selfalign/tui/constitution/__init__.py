"""Screen 5: the principles of a run and what each did (`screen`, `principle`), an editor for them, what an edit means
(`changes`), and what it would change (`impact`). `bench` keeps what outlives a screen.
"""
