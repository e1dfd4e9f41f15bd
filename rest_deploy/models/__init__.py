"""Networks: their families, as their authors wrote them, and in the form that is deployed; and their checkpoints."""
