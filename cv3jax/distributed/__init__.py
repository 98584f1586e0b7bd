"""The mesh, what is sharded how, and the processes of a run."""
