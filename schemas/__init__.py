"""The records that stages exchange, with regions, spans, drops, ids, Arrow schemas and files."""
