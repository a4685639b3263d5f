//! Just enough of the zip format to hide a sample in an archive.
//!
//! Members are stored, not compressed: the engine must open the archive all the same, and no
//! compressor can be at fault.

use std::io::{self, Write};

/// How every archive begins: the mark of its first member.
pub const LOCAL: &[u8] = b"PK\x03\x04";

/// Bit 0 of a member's general purpose flags: the member is encrypted.
const ENCRYPTED: u16 = 1;

/// Length of the encryption header at the start of an encrypted member, in bytes.
const ENCRYPTION_HEADER: usize = 12;

/// An archive of `members`, each a name and its content.
///
/// # Panics
/// With more or longer members than the classic format can count.
#[must_use]
pub fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
    build(members, 0)
}

/// Writes the same archive piece by piece: it may be larger than the memory, where members share bytes.
///
/// # Errors
/// When `to` does not take it.
///
/// # Panics
/// With more or longer members than the classic format can count.
pub fn write(to: &mut impl Write, members: &[(&str, &[u8])]) -> io::Result<()> {
    write_members(to, members, 0)
}

/// An archive of one member that cannot be read without a password.
///
/// The content is noise of the right length: an engine stops at the flag and decrypts nothing.
///
/// # Panics
/// When `name` or `size` do not fit the classic format.
#[must_use]
pub fn encrypted(name: &str, size: usize) -> Vec<u8> {
    let noise: Vec<u8> = (0..size + ENCRYPTION_HEADER)
        .map(|at| u8::try_from(at * 167 % 251).expect("below 251"))
        .collect();
    build(&[(name, &noise)], ENCRYPTED)
}

/// `content` inside an archive inside an archive … `depth` deep.
#[must_use]
pub fn nested(name: &str, content: &[u8], depth: usize) -> Vec<u8> {
    (1..depth).fold(archive(&[(name, content)]), |inner, _| archive(&[("inner.zip", &inner)]))
}

fn build(members: &[(&str, &[u8])], flags: u16) -> Vec<u8> {
    let mut file = Vec::new();
    write_members(&mut file, members, flags).expect("memory takes every write");
    file
}

fn write_members(to: &mut impl Write, members: &[(&str, &[u8])], flags: u16) -> io::Result<()> {
    let mut written = 0;
    let mut directory = Vec::new();
    for (name, data) in members {
        let offset = number(written);
        let plain_size =
            if flags == ENCRYPTED { data.len() - ENCRYPTION_HEADER } else { data.len() };
        let mut header = Vec::new();
        put16(&mut header, &[20, flags, 0, 0, 0x21]); // version, flags, stored, time, 1980-01-01
        put32(&mut header, &[crc32fast::hash(data), number(data.len()), number(plain_size)]);
        put16(&mut header, &[u16::try_from(name.len()).expect("a short name"), 0]);

        for part in [LOCAL, &header, name.as_bytes(), data] {
            to.write_all(part)?;
            written += part.len();
        }

        directory.extend_from_slice(b"PK\x01\x02");
        put16(&mut directory, &[20]);
        directory.extend_from_slice(&header);
        put16(&mut directory, &[0, 0, 0]); // comment, disk, internal attributes
        put32(&mut directory, &[0, offset]);
        directory.extend_from_slice(name.as_bytes());
    }
    let count = u16::try_from(members.len()).expect("few members");
    let (start, length) = (number(written), number(directory.len()));
    directory.extend_from_slice(b"PK\x05\x06");
    put16(&mut directory, &[0, 0, count, count]);
    put32(&mut directory, &[length, start]);
    put16(&mut directory, &[0]);
    to.write_all(&directory)
}

fn number(length: usize) -> u32 {
    u32::try_from(length).expect("below 4 GiB")
}

fn put16(to: &mut Vec<u8>, values: &[u16]) {
    to.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

fn put32(to: &mut Vec<u8>, values: &[u32]) {
    to.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_points_back_at_its_directory() {
        let zip = archive(&[("a.txt", b"hello"), ("b.txt", b"world")]);
        let end = zip.len() - 22;
        assert_eq!(&zip[end..end + 4], b"PK\x05\x06");
        let start = u32::from_le_bytes(zip[end + 16..end + 20].try_into().unwrap());
        assert_eq!(&zip[start as usize..start as usize + 4], b"PK\x01\x02");
    }
}
