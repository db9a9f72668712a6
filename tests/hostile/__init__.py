"""Hostile input, slow and vanishing clients, cancellation at every step: nothing of it may hurt anybody else."""
