package configs

// Setting describes a setting for the tests that hold the documents to the code.
type Setting struct{ Key, Env, Default, Doc string }

// Settings lists every setting in the order of Config.
func Settings() []Setting {
	c, docs := Default(), descriptions()
	var out []Setting
	for _, f := range fields(&c) {
		out = append(out, Setting{f.key, f.env(), f.String(), string(docs[f.key])})
	}
	return out
}

// DecodeFile sets in c what the YAML document data says.
func DecodeFile(data []byte, c *Config) error { return decodeFile(data, fields(c)) }
