"""What only a GPU can show, in sections: functions of a `Report` that check or measure one thing each."""
