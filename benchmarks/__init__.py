"""Measurements of the engine; each file is a program."""
