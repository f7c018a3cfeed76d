"""Comparisons that anyone can repeat: this harness against other systems, against plain code, and against itself."""
