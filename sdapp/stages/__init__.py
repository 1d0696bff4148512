"""The stages of painting: functions of a loaded model and a batch, each with its entry in the record."""
