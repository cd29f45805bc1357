"""Events in, histories out: readers, ids, both sides' histories, splits, packed batches."""
