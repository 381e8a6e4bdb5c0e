"""Pools: the stored responses of a team, how they are sampled, drawn from and summed up."""
