"""Screen 4: what rounds were trained on. The list is `screen`, one of it `pair`; the rest reads and knows no widget."""
