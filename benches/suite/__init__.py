"""The parts of `versus.py`: what is measured, how, against whom, and how it is shown."""
