"""Several tenants at one server: who asks, with which key, and what each of them sees."""
