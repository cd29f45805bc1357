"""The loop, its checkpoints and its log. No model code here."""
