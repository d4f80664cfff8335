"""`python -m deco_lab.training.fields`"""

ARMS = {
    "deco": ("--preset", "fields"),
    "no-freqfm": ("--preset", "fields", "--frequency-weight", "0"),
    "blind": ("--preset", "fields", "--no-decoder-sees-pixels"),
    "patch-8": ("--preset", "fields", "--decoder-patch", "8", "--decoder-width", "100"),
    "dit-v": ("--preset", "fields-dit", "--frequency-weight", "0"),
    "dit-x": ("--preset", "fields-dit", "--frequency-weight", "0", "--predicts", "image"),
}
