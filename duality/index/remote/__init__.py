"""An index whose records live in a Milvus server; same methods and answers as the local one."""
