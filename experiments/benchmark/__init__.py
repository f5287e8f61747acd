"""How fast is it, and against what?   python -m experiments.benchmark"""
