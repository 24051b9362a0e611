"""Commands that look and change nothing: plan, doctor, models, status, show."""
