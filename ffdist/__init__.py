"""Pipeline-parallel distributed training of Forward-Forward and other locally learning networks."""
