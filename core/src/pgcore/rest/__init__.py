"""The REST interface of an agent: health checks answered from the board, management requests handed to the mailbox."""
