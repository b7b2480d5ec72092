//! Words of an expression.

/// A word and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) word: Word,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Word {
    Ident(String),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "?.", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",",
    "(", ")", "[", "]", "{", "}",
];

/// Splits an expression into words.
pub(super) fn words(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        let first = rest.chars().next().expect("it is not empty");
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let (word, length) = word(rest).map_err(|why| format!("ERROR: <input>:1:{}: {why}", at + 1))?;
        tokens.push(Token { at, word });
        at += length;
    }
    tokens.push(Token { at: text.len(), word: Word::End });
    Ok(tokens)
}

fn word(rest: &str) -> Result<(Word, usize), String> {
    if let Some(found) = quoted(rest) {
        return found;
    }
    let first = rest.as_bytes()[0];
    let dotted = first == b'.' && rest.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    if first.is_ascii_digit() || dotted {
        return number(rest);
    }
    if first.is_ascii_alphabetic() || first == b'_' {
        let length = rest.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
        return Ok((Word::Ident(rest[..length].to_owned()), length));
    }
    if let Some(escaped) = rest.strip_prefix('`')
        && let Some(end) = escaped.find('`')
    {
        return Ok((Word::Ident(escaped[..end].to_owned()), end + 2));
    }
    let sign = SIGNS.iter().find(|sign| **sign != "?." && rest.starts_with(**sign));
    match sign {
        Some(sign) => Ok((Word::Sign(sign), sign.len())),
        None => Err(format!(
            "Syntax error: token recognition error at: '{}'",
            rest.chars().next().unwrap_or_default()
        )),
    }
}

fn number(rest: &str) -> Result<(Word, usize), String> {
    let bad = |text: &str| format!("Syntax error: invalid number {text}");
    if let Some(hex) = rest.strip_prefix("0x").or_else(|| rest.strip_prefix("0X")) {
        let length = hex.bytes().take_while(u8::is_ascii_hexdigit).count();
        if hex[length..].starts_with(['u', 'U']) {
            let number = u64::from_str_radix(&hex[..length], 16).map_err(|_| bad(rest))?;
            return Ok((Word::Uint(number), length + 3));
        }
        let number = i64::from_str_radix(&hex[..length], 16).map_err(|_| bad(rest))?;
        return Ok((Word::Int(number), length + 2));
    }
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let mut length = digits(rest);
    let mut whole = true;
    if rest[length..].starts_with('.') && rest.as_bytes().get(length + 1).is_some_and(u8::is_ascii_digit) {
        whole = false;
        length += 1 + digits(&rest[length + 1..]);
    }
    if rest[length..].starts_with(['e', 'E']) {
        let sign = usize::from(rest[length + 1..].starts_with(['+', '-']));
        let exponent = digits(&rest[length + 1 + sign..]);
        if exponent > 0 {
            whole = false;
            length += 1 + sign + exponent;
        }
    }
    let text = &rest[..length];
    if !whole {
        return text.parse().map(|number| (Word::Double(number), length)).map_err(|_| bad(text));
    }
    if rest[length..].starts_with(['u', 'U']) {
        return text.parse().map(|number| (Word::Uint(number), length + 1)).map_err(|_| bad(text));
    }
    // The least number is the negation of one too large.
    match text.parse::<i64>() {
        Ok(number) => Ok((Word::Int(number), length)),
        Err(_) if text == "9223372036854775808" => Ok((Word::Int(i64::MIN), length)),
        Err(_) => Err(bad(text)),
    }
}

/// Reads text or bytes: `'a'`, `"a"`, `'''a'''`, with the prefixes `r` and `b`.
fn quoted(rest: &str) -> Option<Result<(Word, usize), String>> {
    let prefix = rest.bytes().take(2).take_while(|byte| matches!(byte, b'r' | b'R' | b'b' | b'B')).count();
    let body = &rest[prefix..];
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| body.starts_with(quote))?;
    let marks = rest[..prefix].to_ascii_lowercase();
    let (raw, bytes) = (marks.contains('r'), marks.contains('b'));
    Some(
        read_quoted(&body[quote.len()..], quote, raw, bytes)
            .map(|(word, length)| (word, prefix + quote.len() + length)),
    )
}

fn read_quoted(body: &str, quote: &str, raw: bool, bytes: bool) -> Result<(Word, usize), String> {
    let mut out: Vec<u8> = Vec::new();
    let mut at = 0;
    loop {
        let rest = &body[at..];
        if rest.starts_with(quote) {
            let length = at + quote.len();
            return match (bytes, String::from_utf8(out)) {
                (true, Ok(text)) => Ok((Word::Bytes(text.into_bytes()), length)),
                (true, Err(why)) => Ok((Word::Bytes(why.into_bytes()), length)),
                (false, Ok(text)) => Ok((Word::Text(text), length)),
                (false, Err(_)) => Err("Syntax error: text is not UTF-8".into()),
            };
        }
        let letter = rest.chars().next().ok_or("Syntax error: unterminated text")?;
        if quote.len() == 1 && letter == '\n' {
            return Err("Syntax error: unterminated text".into());
        }
        if letter == '\\' && !raw {
            at += escape(&rest[1..], bytes, &mut out).ok_or("Syntax error: unknown escape")? + 1;
        } else {
            out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
            at += letter.len_utf8();
        }
    }
}

/// Reads what follows a backslash; returns its length.
fn escape(rest: &str, bytes: bool, out: &mut Vec<u8>) -> Option<usize> {
    let letter = rest.chars().next()?;
    let plain = match letter {
        'a' => 7,
        'b' => 8,
        'f' => 12,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 11,
        '\\' | '\'' | '"' | '`' | '?' => letter as u8,
        _ => 0,
    };
    if plain != 0 {
        out.push(plain);
        return Some(1);
    }
    let (digits, radix, skip) = match letter {
        'x' | 'X' => (2, 16, 1),
        'u' => (4, 16, 1),
        'U' => (8, 16, 1),
        '0'..='3' => (3, 8, 0),
        _ => return None,
    };
    let code = u32::from_str_radix(rest.get(skip..skip + digits)?, radix).ok()?;
    if bytes && digits <= 3 {
        out.push(u8::try_from(code).ok()?);
    } else {
        out.extend_from_slice(char::from_u32(code)?.encode_utf8(&mut [0; 4]).as_bytes());
    }
    Some(skip + digits)
}
