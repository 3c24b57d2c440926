"""Screen 6: what there is to label (`screen`), and the desk where it is done."""
