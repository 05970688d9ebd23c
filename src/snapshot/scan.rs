//! A look at protobuf bytes before they are decoded: how often a field occurs,
//! so that a small hostile message cannot make the decoder allocate for
//! millions of empty elements.

/// How often the length-delimited field `number` stands at the top level.
pub(crate) fn count_field(bytes: &[u8], number: u32) -> Result<usize, String> {
    let wanted = (u64::from(number) << 3) | 2;
    let mut rest = bytes;
    let mut count = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        match key & 7 {
            0 => {
                varint(&mut rest)?;
            }
            2 => {
                let len = varint(&mut rest)?;
                rest = usize::try_from(len)
                    .ok()
                    .and_then(|len| rest.get(len..))
                    .ok_or("a field passes the end of the message")?;
            }
            other => return Err(format!("wire type {other} is not used here")),
        }
        count += usize::from(key == wanted);
    }
    Ok(count)
}

fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    prost::encoding::decode_varint(rest).map_err(|error| error.to_string())
}
