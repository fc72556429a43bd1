# Turns a `#cloud-config` into a shell script that carries it out.
#
# A guest of this size has no YAML parser. This reads the part of YAML that people write: keys in
# the first column, lists of `- ` items, flow lists on one line, plain and quoted scalars, and
# `|` blocks. Known keys: hostname, fqdn, ssh_authorized_keys, write_files (path, content,
# permissions, append, encoding: b64), runcmd. Any other key is named in the output as
# unsupported, and the exit status is then 1.

BEGIN {
	q = "'"
	print "status=0"
	print "unsupported() { echo \"unkai-tiny: cloud-config: unsupported: $1\"; status=1; }"
}

# A block scalar goes on while lines are empty or indented deeper than its key.
block != "" {
	match($0, /^ */)
	if ($0 ~ /^ *$/ || RLENGTH > block_indent) {
		if (block_width < 0 && $0 !~ /^ *$/) block_width = RLENGTH
		block_text = block_text substr($0, block_width + 1) "\n"
		next
	}
	end_block()
}

/^ *(#|$)/ { next }
/^(---|\.\.\.) *$/ { next }

/^[A-Za-z_]/ {
	finish()
	key = $0
	sub(/:.*/, "", key)
	rest = after_colon($0)
	section = key
	if (key == "hostname" || key == "fqdn") {
		name = scalar(rest)
		if (key == "fqdn") sub(/\..*/, "", name)
		print "hostname " quoted(name) " && hostname >/etc/hostname && " \
			"echo \"unkai-tiny: hostname=$(hostname)\" || status=1"
	} else if (key == "runcmd" || key == "ssh_authorized_keys") {
		if (rest ~ /^\[/) {
			count = flow(rest, words)
			for (i = 1; i <= count; i++) item(quoted(words[i]), words[i])
		}
	} else if (key != "write_files") {
		print "unsupported " quoted(key)
		section = ""
	}
	next
}

section == "" { next }

section == "write_files" {
	line = $0
	if (line ~ /^ *- /) {
		finish()
		open = 1
		sub(/- /, "  ", line)
	}
	match(line, /^ */)
	indent = RLENGTH
	field = substr(line, indent + 1)
	sub(/:.*/, "", field)
	rest = after_colon(line)
	if (field !~ /^(path|content|permissions|append|encoding)$/) {
		print "unsupported " quoted("write_files." field)
	} else if (rest ~ /^\|[-+]?$/) {
		start_block("file", field, indent, rest)
	} else {
		file[field] = scalar(rest)
	}
	next
}

/^ *- / {
	match($0, /^ */)
	indent = RLENGTH
	rest = substr($0, indent + 3)
	sub(/^ +/, "", rest)
	if (rest ~ /^\[/) {
		count = flow(rest, words)
		line = ""
		for (i = 1; i <= count; i++) line = line (i > 1 ? " " : "") quoted(words[i])
		item(line, line)
	} else if (rest ~ /^\|[-+]?$/) {
		start_block("item", "", indent, rest)
	} else {
		item("sh -c " quoted(scalar(rest)), scalar(rest))
	}
	next
}

{ print "unsupported " quoted("line " NR) }

END {
	if (block != "") end_block()
	finish()
	printf "%s", commands # last, as cloud-init does: they may need the files
	print "exit $status"
}

function item(command, text) {
	if (section == "runcmd")
		commands = commands command " || status=$?\n"
	else
		print "printf '%s\\n' " quoted(text) " >>/root/.ssh/authorized_keys; " \
			"echo \"unkai-tiny: ssh-key=\"" quoted(text)
}

function start_block(kind, field, indent, mark) {
	block = kind
	block_field = field
	block_indent = indent
	block_mark = mark
	block_width = -1
	block_text = ""
}

function end_block() {
	if (block_mark != "|+") sub(/\n+$/, "\n", block_text)
	if (block_mark == "|-") sub(/\n$/, "", block_text)
	if (block == "file") file[block_field] = block_text
	else item("sh -c " quoted(block_text), block_text)
	block = ""
}

# Write the file whose fields have been read.
function finish(    path, decode) {
	if (!open) return
	open = 0
	path = quoted(file["path"])
	decode = (file["encoding"] ~ /^(b64|base64)$/) ? " | base64 -d" : ""
	if (file["path"] == "")
		print "unsupported " quoted("write_files without a path")
	else if (file["encoding"] != "" && decode == "")
		print "unsupported " quoted("write_files.encoding " file["encoding"])
	else {
		print "mkdir -p \"$(dirname " path ")\" && printf %s " quoted(file["content"]) decode \
			(file["append"] == "true" ? " >>" : " >") path " || status=1"
		if (file["permissions"] != "")
			print "chmod " quoted(file["permissions"]) " " path " || status=1"
	}
	delete file
}

function after_colon(text) {
	if (!sub(/^[^:]*: */, "", text)) return ""
	return text
}

# The value of a plain, single-quoted or double-quoted scalar.
function scalar(text) {
	sub(/ +$/, "", text)
	if (text ~ /^".*"$/) {
		text = substr(text, 2, length(text) - 2)
		gsub(/\\\\/, "\001", text)
		gsub(/\\n/, "\n", text)
		gsub(/\\t/, "\t", text)
		gsub(/\\"/, "\"", text)
		gsub(/\001/, "\\", text)
		return text
	}
	if (text ~ /^'.*'$/) {
		text = substr(text, 2, length(text) - 2)
		gsub(/''/, q, text)
		return text
	}
	sub(/ +#.*$/, "", text)
	return text
}

# Split `[a, "b, c"]` into words; return how many.
function flow(text, words,    n, word, char, mark, i) {
	sub(/^\[ */, "", text)
	sub(/ *\] *$/, "", text)
	n = 0
	word = ""
	mark = ""
	for (i = 1; i <= length(text); i++) {
		char = substr(text, i, 1)
		if (mark == "" && char == ",") {
			words[++n] = scalar(trimmed(word))
			word = ""
			continue
		}
		if (mark == "\"" && char == "\\") {
			word = word char substr(text, ++i, 1)
			continue
		}
		if (char == mark) mark = ""
		else if (mark == "" && (char == "\"" || char == q) && trimmed(word) == "") mark = char
		word = word char
	}
	if (trimmed(word) != "") words[++n] = scalar(trimmed(word))
	return n
}

function trimmed(text) {
	gsub(/^ +| +$/, "", text)
	return text
}

# A word for the shell, whatever it holds.
function quoted(text) {
	gsub(/'/, "'\\''", text)
	return q text q
}
