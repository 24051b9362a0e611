"""What flows: records, regions, spans, drops, ids, their Arrow form and their files."""
