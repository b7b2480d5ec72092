//! Protocol buffers, as far as BuildKit's messages need them.
//!
//! [`message!`] makes a struct of a list of fields and numbers. Unknown fields are skipped; fields with their default
//! value are not written. No message nests in itself, so that depth is bounded by the types; sizes are bounded by
//! whoever reads the frame.
//!
//! Source: protobuf.dev, "Encoding".

use std::collections::BTreeMap;

use bytes::Bytes;

/// Bytes that are not the message they are taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed protocol buffer")]
pub struct Malformed;

/// The value of a field as it is on the wire.
#[derive(Debug, Clone, Copy)]
pub enum Value<'a> {
    /// A number.
    Varint(u64),
    /// Text, bytes or a message.
    Bytes(&'a [u8]),
    /// Four or eight bytes, which none of our messages has.
    Fixed,
}

/// A message.
pub trait Message: Default {
    /// Appends the fields.
    fn put_fields(&self, out: &mut Vec<u8>);
    /// Takes one field.
    ///
    /// # Errors
    /// If it is of another kind than the message's field of that number.
    fn take_field(&mut self, number: u32, value: Value<'_>) -> Result<(), Malformed>;

    /// Returns the message's bytes.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.put_fields(&mut out);
        out
    }

    /// Reads a message.
    ///
    /// # Errors
    /// If the bytes are not one.
    fn decode(mut bytes: &[u8]) -> Result<Self, Malformed> {
        let mut message = Self::default();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes)?;
            let number = u32::try_from(key >> 3).map_err(|_| Malformed)?;
            let value = match key & 7 {
                0 => Value::Varint(take_varint(&mut bytes)?),
                1 => take(&mut bytes, 8).map(|_| Value::Fixed)?,
                2 => {
                    let length = usize::try_from(take_varint(&mut bytes)?).map_err(|_| Malformed)?;
                    Value::Bytes(take(&mut bytes, length)?)
                }
                5 => take(&mut bytes, 4).map(|_| Value::Fixed)?,
                _ => return Err(Malformed),
            };
            message.take_field(number, value)?;
        }
        Ok(message)
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], Malformed> {
    let (head, rest) = bytes.split_at_checked(length).ok_or(Malformed)?;
    *bytes = rest;
    Ok(head)
}

fn take_varint(bytes: &mut &[u8]) -> Result<u64, Malformed> {
    let mut number = 0;
    for shift in (0..70).step_by(7) {
        let byte = take(bytes, 1)?[0];
        let part = u64::from(byte & 0x7f);
        if shift == 63 && part > 1 {
            return Err(Malformed);
        }
        number |= part << shift;
        if byte < 0x80 {
            return Ok(number);
        }
    }
    Err(Malformed)
}

fn put_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(number: u32, bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(u64::from(number) << 3 | 2, out);
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// The type of a message's field.
pub trait Field {
    /// Appends the field, unless it has its default value.
    fn put(&self, number: u32, out: &mut Vec<u8>);
    /// Takes a value of the field.
    ///
    /// # Errors
    /// If it is of another kind.
    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed>;
}

/// What a field can hold none, one or many of: everything with a length before it.
pub trait Element: Sized {
    /// Returns its bytes.
    fn to_wire(&self) -> Vec<u8>;
    /// Reads it.
    ///
    /// # Errors
    /// If the bytes are not one.
    fn from_wire(bytes: &[u8]) -> Result<Self, Malformed>;
}

impl Element for String {
    fn to_wire(&self) -> Vec<u8> {
        self.clone().into_bytes()
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, Malformed> {
        // Go checks what it sends, so text that is none comes from elsewhere.
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| Malformed)
    }
}

impl Element for Bytes {
    fn to_wire(&self) -> Vec<u8> {
        self.to_vec()
    }

    fn from_wire(bytes: &[u8]) -> Result<Self, Malformed> {
        Ok(Self::copy_from_slice(bytes))
    }
}

impl Field for String {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self.as_bytes(), out);
        }
    }

    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        *self = Self::from_wire(bytes)?;
        Ok(())
    }
}

impl Field for Bytes {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(number, self, out);
        }
    }

    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        *self = Self::copy_from_slice(bytes);
        Ok(())
    }
}

/// Numbers; what does not fit is cut off, as the other implementations do.
macro_rules! number {
    ($type:ty, |$value:ident| $to:expr, |$wire:ident| $from:expr) => {
        impl Field for $type {
            fn put(&self, number: u32, out: &mut Vec<u8>) {
                let $value = *self;
                let wire: u64 = $to;
                if wire != 0 {
                    put_varint(u64::from(number) << 3, out);
                    put_varint(wire, out);
                }
            }

            fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
                let Value::Varint($wire) = value else { return Err(Malformed) };
                *self = $from;
                Ok(())
            }
        }
    };
}

number!(bool, |value| u64::from(value), |wire| wire != 0);
number!(u32, |value| u64::from(value), |wire| wire as u32);
number!(i64, |value| value.cast_unsigned(), |wire| wire.cast_signed());
number!(i32, |value| i64::from(value).cast_unsigned(), |wire| wire as u32 as i32);

impl<T: Element> Field for Vec<T> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for element in self {
            put_bytes(number, &element.to_wire(), out);
        }
    }

    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        self.push(T::from_wire(bytes)?);
        Ok(())
    }
}

impl<T: Element> Field for Option<T> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(element) = self {
            put_bytes(number, &element.to_wire(), out);
        }
    }

    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        *self = Some(T::from_wire(bytes)?);
        Ok(())
    }
}

impl<T: Element + Default> Field for BTreeMap<String, T> {
    fn put(&self, number: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            let mut entry = Vec::new();
            put_bytes(1, key.as_bytes(), &mut entry);
            put_bytes(2, &value.to_wire(), &mut entry);
            put_bytes(number, &entry, out);
        }
    }

    fn take(&mut self, value: Value<'_>) -> Result<(), Malformed> {
        let Value::Bytes(mut bytes) = value else { return Err(Malformed) };
        let (mut key, mut element) = (String::new(), T::default());
        while !bytes.is_empty() {
            let number = take_varint(&mut bytes)?;
            let length = usize::try_from(take_varint(&mut bytes)?).map_err(|_| Malformed)?;
            let part = take(&mut bytes, length)?;
            match number {
                10 => key = String::from_wire(part)?,
                18 => element = T::from_wire(part)?,
                _ => return Err(Malformed),
            }
        }
        self.insert(key, element);
        Ok(())
    }
}

/// Makes a message: `message!(Name { field: Type = number, … })`.
macro_rules! message {
    ($(#[$meta:meta])* $name:ident { $($field:ident: $type:ty = $number:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct $name { $(pub $field: $type),* }

        impl $crate::wire::Message for $name {
            fn put_fields(&self, _out: &mut Vec<u8>) {
                $($crate::wire::Field::put(&self.$field, $number, _out);)*
            }

            fn take_field(
                &mut self,
                number: u32,
                _value: $crate::wire::Value<'_>,
            ) -> Result<(), $crate::wire::Malformed> {
                match number {
                    $($number => $crate::wire::Field::take(&mut self.$field, _value),)*
                    _ => Ok(()),
                }
            }
        }

        impl $crate::wire::Element for $name {
            fn to_wire(&self) -> Vec<u8> {
                $crate::wire::Message::encode(self)
            }

            fn from_wire(bytes: &[u8]) -> Result<Self, $crate::wire::Malformed> {
                $crate::wire::Message::decode(bytes)
            }
        }
    };
}
pub(crate) use message;

#[cfg(test)]
#[expect(unreachable_pub, reason = "the macro makes public messages")]
mod tests {
    use super::*;

    message!(Inner { text: String = 1, small: i32 = 2 });
    message!(Outer {
        number: i64 = 1,
        flag: bool = 2,
        data: Bytes = 3,
        inner: Option<Inner> = 4,
        names: Vec<String> = 5,
        map: BTreeMap<String, Inner> = 6,
        mode: u32 = 16,
    });

    fn outer() -> Outer {
        Outer {
            number: -1,
            flag: true,
            data: Bytes::from_static(b"\xff\0"),
            inner: Some(Inner { text: "x".into(), small: -5 }),
            names: vec!["a".into(), String::new()],
            map: [("k".to_owned(), Inner { text: "v".into(), small: 300 })].into(),
            mode: 0x8000_01ed,
        }
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let bytes = outer().encode();
        assert_eq!(Outer::decode(&bytes).unwrap(), outer());
        // The bytes that the specification gives for `Test1 { a: 150 }`.
        assert_eq!(Outer { number: 150, ..Outer::default() }.encode(), [0x08, 0x96, 0x01]);
        assert!(Outer::default().encode().is_empty());
    }

    #[test]
    fn what_is_cut_off_or_of_another_kind_is_refused_and_the_unknown_skipped() {
        let bytes = outer().encode();
        assert!((1..bytes.len()).any(|length| Outer::decode(&bytes[..length]).is_err()));
        for wrong in [&[0x0a, 0x01, 0x00][..], &[0x0b], &[0x08, 0xff], &[0x2a, 0x01, 0xff], &[0xff; 11]] {
            assert_eq!(Outer::decode(wrong), Err(Malformed), "{wrong:x?}");
        }
        let unknown = [0x9d, 0x06, 1, 2, 3, 4, 0x99, 0x06, 1, 2, 3, 4, 5, 6, 7, 8, 0x08, 0x01];
        assert_eq!(Outer::decode(&unknown).unwrap().number, 1);
    }
}
