"""What a run would need on a pod or cluster that is not there."""
