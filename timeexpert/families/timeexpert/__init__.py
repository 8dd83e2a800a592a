"""TimeExpert: a mixture of experts whose answers are event sequences. The model itself is ``timeexpert/model``."""
