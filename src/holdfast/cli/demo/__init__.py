"""`holdfast demo`: a support desk, its shop and its model, and what is done to them."""
