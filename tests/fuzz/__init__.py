"""Random input for whatever reads what comes from a store, guided by the code that it reaches."""
