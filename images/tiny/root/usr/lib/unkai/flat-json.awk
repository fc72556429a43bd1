# Writes JSON as lines: the way to a value, joined by dots, a space, the value.
# Strings are taken as they stand, so none may hold an escape; a way must hold no space.

{ text = text $0 " " }

END {
	at = 1
	if (text ~ /[^ ]/) value("")
}

function value(way,    char, number) {
	skip()
	char = substr(text, at, 1)
	if (char == "{") {
		at++
		while (skip() != "}" && at <= length(text)) {
			char = string()
			skip()
			at++ # the colon
			value(way == "" ? char : way "." char)
			if (skip() == ",") at++
		}
		at++
	} else if (char == "[") {
		at++
		for (number = 0; skip() != "]" && at <= length(text); number++) {
			value(way "." number)
			if (skip() == ",") at++
		}
		at++
	} else if (char == "\"") {
		print way " " string()
	} else {
		match(substr(text, at), /^[^],} ]*/)
		print way " " substr(text, at, RLENGTH)
		at += RLENGTH > 0 ? RLENGTH : 1
	}
}

function string(    rest) {
	rest = substr(text, at + 1)
	rest = substr(rest, 1, index(rest, "\"") - 1)
	at += length(rest) + 2
	return rest
}

function skip() {
	while (substr(text, at, 1) == " ") at++
	return substr(text, at, 1)
}
