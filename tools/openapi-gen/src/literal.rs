//! Reads the argument of `json_schema!`: JSON with trailing commas and, in place of some values, Rust
//! expressions that name another type.

use serde_json::{Map, Value, json};

/// A parser over the text after `json_schema!(`.
pub struct Literal<'a> {
    text: &'a str,
    /// Turns a Rust path into the name of a definition.
    resolve: &'a dyn Fn(&str) -> String,
}

impl<'a> Literal<'a> {
    /// Starts at a value.
    pub fn new(text: &'a str, resolve: &'a dyn Fn(&str) -> String) -> Self {
        Self { text, resolve }
    }

    fn skip(&mut self, word: &str) -> Result<(), String> {
        self.text = self.text.trim_start();
        match self.text.strip_prefix(word) {
            Some(rest) => {
                self.text = rest;
                Ok(())
            }
            None => Err(format!("want `{word}` at `{}`", self.text.chars().take(60).collect::<String>())),
        }
    }

    fn until(&mut self, word: &str) -> Result<&'a str, String> {
        let (head, rest) = self.text.split_once(word).ok_or(format!("no `{word}`"))?;
        self.text = rest;
        Ok(head)
    }

    /// Reads one value.
    pub fn value(&mut self) -> Result<Value, String> {
        self.text = self.text.trim_start();
        match self.text.chars().next().ok_or("end of text")? {
            '{' => self.object(),
            '[' => self.array(),
            '"' => self.string().map(Value::String),
            '(' => self.expression(),
            '_' => self.reference(),
            _ => self.word(),
        }
    }

    fn object(&mut self) -> Result<Value, String> {
        self.skip("{")?;
        let mut object = Map::new();
        while self.skip("}").is_err() {
            let key = {
                self.text = self.text.trim_start();
                self.string()?
            };
            self.skip(":")?;
            object.insert(key, self.value()?);
            let _ = self.skip(",");
        }
        Ok(Value::Object(object))
    }

    fn array(&mut self) -> Result<Value, String> {
        self.skip("[")?;
        let mut items = Vec::new();
        while self.skip("]").is_err() {
            items.push(self.value()?);
            let _ = self.skip(",");
        }
        Ok(Value::Array(items))
    }

    /// Rust's string escapes that occur here are JSON's, but for `\'`.
    fn string(&mut self) -> Result<String, String> {
        let bytes = self.text.as_bytes();
        let mut end = 1;
        while bytes.get(end).ok_or("open string")? != &b'"' {
            end += if bytes[end] == b'\\' { 2 } else { 1 };
        }
        let (literal, rest) = self.text.split_at(end + 1);
        self.text = rest;
        serde_json::from_str(&literal.replace("\\'", "'")).map_err(|why| format!("{why}: {literal}"))
    }

    fn word(&mut self) -> Result<Value, String> {
        let end = self.text.find(|c: char| c == ',' || c == '}' || c == ']' || c.is_whitespace());
        let (word, rest) = self.text.split_at(end.ok_or("open value")?);
        self.text = rest;
        serde_json::from_str(word).map_err(|why| format!("{why}: {word}"))
    }

    /// `(__gen.subschema_for::<T>())`, or a block that adds a description to it.
    fn expression(&mut self) -> Result<Value, String> {
        self.skip("(")?;
        if self.skip("{").is_err() {
            let value = self.value()?;
            self.skip(")")?;
            return Ok(value);
        }
        self.skip("let mut schema_obj =")?;
        let reference = self.value()?;
        self.skip(";")?;
        self.skip("schema_obj.ensure_object().insert(\"description\".into(),")?;
        self.text = self.text.trim_start();
        let description = self.string()?;
        self.until("schema_obj")?;
        self.skip("}")?;
        self.skip(")")?;
        Ok(json!({"description": description, "allOf": [reference]}))
    }

    fn reference(&mut self) -> Result<Value, String> {
        self.text = self.text.trim_start();
        self.skip("__gen.subschema_for::<")?;
        let path = self.until(">()")?;
        Ok(json!({"$ref": format!("#/components/schemas/{}", (self.resolve)(path))}))
    }
}
