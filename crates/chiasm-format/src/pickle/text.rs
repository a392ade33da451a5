//! The escapes of the text protocols.

/// What stands between the quotes of a Python 2 string literal, without its escapes; `None` when the
/// quotes do not match.
pub(super) fn unquote(line: &[u8]) -> Option<Vec<u8>> {
    let (first, rest) = line.trim_ascii_end().split_first()?;
    let (last, inner) = rest.split_last()?;
    if first != last || !matches!(first, b'\'' | b'"') {
        return None;
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut bytes = inner.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        match bytes.next()? {
            b'\n' => {}
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'r' => out.push(b'\r'),
            b'a' => out.push(7),
            b'b' => out.push(8),
            b'v' => out.push(11),
            b'f' => out.push(12),
            b'x' => {
                let digits = [bytes.next()?, bytes.next()?];
                out.push(u8::try_from(number(&digits, 16)?).ok()?);
            }
            digit @ b'0'..=b'7' => {
                let mut value = u32::from(digit - b'0');
                for _ in 0..2 {
                    let Some(next) = bytes.next_if(|next| matches!(next, b'0'..=b'7')) else {
                        break;
                    };
                    value = value * 8 + u32::from(next - b'0');
                }
                out.push((value & 0xff) as u8);
            }
            quoted @ (b'\\' | b'\'' | b'"') => out.push(quoted),
            // Python leaves an escape that it does not know as it is.
            other => out.extend([b'\\', other]),
        }
    }
    Some(out)
}

/// Text of a `UNICODE` line: Latin-1, with `\uXXXX` and `\UXXXXXXXX`. `None` when an escape is cut.
/// Half a surrogate pair becomes the replacement character.
pub(super) fn raw_unicode(line: &[u8]) -> Option<String> {
    let mut units: Vec<u16> = Vec::new();
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((byte, after)) = rest.split_first() {
        let digits = match (byte, after.first()) {
            (b'\\', Some(b'u')) => 4,
            (b'\\', Some(b'U')) => 8,
            _ => {
                flush(&mut units, &mut out);
                out.push(char::from(*byte));
                rest = after;
                continue;
            }
        };
        let code = number(after.get(1..=digits)?, 16)?;
        match u16::try_from(code) {
            Ok(unit) => units.push(unit),
            Err(_) => {
                flush(&mut units, &mut out);
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
        }
        rest = after.get(1 + digits..)?;
    }
    flush(&mut units, &mut out);
    Some(out)
}

fn flush(units: &mut Vec<u16>, out: &mut String) {
    let decoded = char::decode_utf16(units.drain(..));
    out.extend(decoded.map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    digits.iter().try_fold(0_u32, |value, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        value.checked_mul(radix)?.checked_add(digit)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_python_2() {
        assert_eq!(unquote(br"'a\n\x41\101\\\'\q'").unwrap(), b"a\nAA\\'\\q");
        assert_eq!(unquote(br#""it's""#).unwrap(), b"it's");
        for broken in [&b"'a"[..], b"'", b"", b"a'", br"'\x4'", br"'\'", b"'a\""] {
            assert_eq!(unquote(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn escapes_of_raw_unicode() {
        assert_eq!(raw_unicode(b"caf\xe9 \\u00e9").unwrap(), "café é");
        assert_eq!(raw_unicode(br"\ud83d\ude00 \U0001f600").unwrap(), "😀 😀");
        assert_eq!(raw_unicode(br"\ud83d!").unwrap(), "\u{fffd}!");
        assert_eq!(raw_unicode(br"a\b").unwrap(), r"a\b");
        assert_eq!(raw_unicode(br"\u12"), None);
    }
}
