"""Machines, and getting a job onto them. Imports nothing of ours."""
