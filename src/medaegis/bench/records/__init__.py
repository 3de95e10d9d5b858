"""What the verbs write down: their records, and the folder of an evaluation."""
