"""The model side: what turns token ids into token ids. Never imports `gateway`."""
