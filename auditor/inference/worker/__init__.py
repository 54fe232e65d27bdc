"""What runs beside vendor code, and nothing else."""
