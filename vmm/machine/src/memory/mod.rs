//! Guest memory: mapped regions, their KVM slots, and page access for checkpoints.
//!
//! Each region is one private anonymous mapping on a huge page boundary, so that the host can back it, and KVM can map
//! it, with huge pages: a memfd gets none unless the host's administrator allows them. Devices write through
//! [`GuestMemory`], which marks pages dirty ([`marks`]); checkpoints read and write whole pages through
//! [`Ram::read_page`] and [`Ram::write_page`].

#![expect(unsafe_code, reason = "page copies between the guest's mapping and ours, and how it is mapped")]

pub mod marks;
pub mod uffd;

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use recoverable::lost::Watch;
use serde::{Deserialize, Serialize};
use vm_memory::bitmap::Bitmap;
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use marks::DirtyMarks;

/// Size of a guest page in bytes.
pub const PAGE_SIZE: usize = 4096;

/// The bytes of one guest page.
pub type Page = [u8; PAGE_SIZE];

/// What devices see of guest memory.
pub type GuestMemory = GuestMemoryMmap<DirtyMarks>;

/// Where the hole for devices below 4 GiB begins: RAM beyond it continues at 4 GiB.
pub const DEVICE_HOLE_START: u64 = 0xc000_0000;
const FOUR_GIB: u64 = 1 << 32;
/// What the host's huge pages are aligned to.
const HUGE_PAGE_SIZE: usize = 2 << 20;
/// How often an aligned mapping is tried for.
const ALIGNMENT_TRIES: usize = 8;

/// A fault of guest memory set-up: the world's, not the guest's.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// A size that no guest has.
    #[error("{bytes} bytes are no size of guest memory: whole pages of {PAGE_SIZE}, at most {RAM_BYTES_MAX}")]
    Size {
        /// The size.
        bytes: u64,
    },
    /// A region could not be mapped.
    #[error(
        "cannot map {bytes} bytes of guest memory at guest address {base:#x}: {reason}; use a smaller --memory or free memory on this host"
    )]
    Map {
        /// Guest physical address of the region.
        base: u64,
        /// Bytes of the region.
        bytes: u64,
        /// What the mapping layer said.
        reason: String,
    },
}

/// One slot of guest RAM: contiguous in the guest and in this process.
#[derive(Debug, Clone)]
pub struct Region {
    /// KVM slot number.
    pub slot: u32,
    /// Guest physical address of the first byte; page aligned.
    pub base: u64,
    /// Size in bytes; page aligned.
    pub bytes: u64,
    /// Marks of the VMM's own writes.
    pub marks: DirtyMarks,
    /// Of one whose content is a file's: should that lose its pages, it is named.
    watch: Option<Arc<Watch>>,
    mapping: Arc<MmapRegion<DirtyMarks>>,
}

impl Region {
    /// Address of the mapping in this process, for KVM's slot.
    pub fn host_address(&self) -> u64 {
        self.mapping.as_ptr() as u64
    }

    /// Number of the first page.
    pub fn first_gfn(&self) -> u64 {
        self.base / PAGE_SIZE as u64
    }

    /// Pages in the region.
    pub fn page_count(&self) -> u64 {
        self.bytes / PAGE_SIZE as u64
    }
}

/// Largest guest, in bytes of RAM: more is not tested.
pub const RAM_BYTES_MAX: u64 = 8 << 30;

/// How much RAM a guest has: whole pages, at least one, at most [`RAM_BYTES_MAX`]. What a file, a peer or an operator says is
/// made one by `try_from`, which is also how it is deserialized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct RamBytes(u64);

impl RamBytes {
    /// The bytes.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The regions: (guest address, bytes), split around the device hole.
    pub fn layout(self) -> Vec<(u64, u64)> {
        layout(self.0)
    }
}

impl TryFrom<u64> for RamBytes {
    type Error = MemoryError;

    fn try_from(bytes: u64) -> Result<Self, MemoryError> {
        let is_one = (1..=RAM_BYTES_MAX).contains(&bytes) && bytes.is_multiple_of(PAGE_SIZE as u64);
        if is_one { Ok(Self(bytes)) } else { Err(MemoryError::Size { bytes }) }
    }
}

impl From<RamBytes> for u64 {
    fn from(bytes: RamBytes) -> u64 {
        bytes.0
    }
}

/// All RAM of a guest.
#[derive(Debug, Clone)]
pub struct Ram {
    regions: Vec<Region>,
    memory: GuestMemory,
    bytes: u64,
}

/// The regions of `bytes` of RAM: (guest address, bytes), split around the device hole.
pub fn layout(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= DEVICE_HOLE_START {
        return vec![(0, bytes)];
    }
    vec![(0, DEVICE_HOLE_START), (FOUR_GIB, bytes - DEVICE_HOLE_START)]
}

impl Ram {
    /// Reserves and maps `bytes` of zeroed RAM, a size as [`RamBytes`] takes it.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        Self::of_regions(bytes.try_into()?, map_region)
    }

    fn of_regions(
        bytes: RamBytes,
        mut map: impl FnMut(u64, &DirtyMarks) -> Result<MmapRegion<DirtyMarks>, String>,
    ) -> Result<Self, MemoryError> {
        let mut regions = Vec::new();
        for (slot, (base, len)) in bytes.layout().into_iter().enumerate() {
            let marks = DirtyMarks::new(len as usize);
            let mapping = map(len, &marks).map_err(|reason| MemoryError::Map { base, bytes: len, reason })?;
            let file = mapping.file_offset();
            let watch = file.and_then(|file| Watch::over(mapping.as_ptr(), len as usize, file.file().as_fd()));
            let (slot, mapping) = (slot as u32, Arc::new(mapping));
            regions.push(Region { slot, base, bytes: len, marks, watch: watch.map(Arc::new), mapping });
        }
        let mapped = regions.iter().map(|r| {
            GuestRegionMmap::with_arc(Arc::clone(&r.mapping), GuestAddress(r.base)).expect("the region ends below 2^64")
        });
        let memory = GuestMemory::from_regions(mapped.collect()).expect("the layout has no overlap and is sorted");
        Ok(Self { regions, memory, bytes: bytes.get() })
    }

    /// RAM with the content that `file` has from `offset` on (the regions one after the other, without the hole): mapped and
    /// not read. What is written here stays here; a page that was not written yet shows what the file has.
    pub fn private_copy_of(file: &File, offset: u64, bytes: RamBytes) -> Result<Self, MemoryError> {
        let mut at = offset;
        Self::of_regions(bytes, |len, marks| {
            let file = file.try_clone().map_err(|error| error.to_string())?;
            let mapping = map_private(FileOffset::new(file, at), len, marks);
            at += len;
            mapping
        })
    }

    /// Reads every page that a file may still have to give. If one is lost, the process ends here and names the file
    /// ([`recoverable::lost`]): KVM does not tell a guest whose memory cannot be read from one that crashed.
    pub fn touch_mapped(&self) {
        for region in self.regions.iter().filter(|region| region.watch.is_some()) {
            for at in (0..region.bytes as usize).step_by(PAGE_SIZE) {
                // SAFETY: within the mapping, which lives as long as `self`; what is read is thrown away.
                unsafe { region.mapping.as_ptr().add(at).read_volatile() };
            }
        }
    }

    /// The view for devices and loaders; writes through it mark pages dirty.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The slots, in order of guest address.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Bytes of RAM.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn page_ptr(&self, gfn: u64) -> Option<*mut u8> {
        let address = gfn.checked_mul(PAGE_SIZE as u64)?;
        let region = self.regions.iter().find(|r| address >= r.base && address - r.base < r.bytes)?;
        // SAFETY: the offset is inside the mapping, which is `region.bytes` long and lives as long as `region`.
        Some(unsafe { region.mapping.as_ptr().add((address - region.base) as usize) })
    }

    /// Whether `gfn` is RAM.
    pub fn contains(&self, gfn: u64) -> bool {
        self.page_ptr(gfn).is_some()
    }

    /// Copies page `gfn` out. The guest may be writing it at the same time when vCPUs run: then the bytes are torn, and
    /// the page is in the dirty log again. False if `gfn` is not RAM.
    pub fn read_page(&self, gfn: u64, out: &mut Page) -> bool {
        let Some(page) = self.page_ptr(gfn) else { return false };
        // SAFETY: `page` points at PAGE_SIZE mapped bytes (regions are page aligned); `out` is a distinct buffer.
        unsafe { std::ptr::copy_nonoverlapping(page, out.as_mut_ptr(), PAGE_SIZE) };
        true
    }

    /// Writes page `gfn` without marking it dirty: for restoring a checkpoint, before the guest runs. False if `gfn`
    /// is not RAM.
    pub fn write_page(&self, gfn: u64, content: &Page) -> bool {
        let Some(page) = self.page_ptr(gfn) else { return false };
        // SAFETY: as in `read_page`; no vCPU runs on this memory yet (the caller's duty, stated above).
        unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), page, PAGE_SIZE) };
        true
    }

    /// Gives the whole pages from guest address `at` on back to the host: the guest finds zeros there. They count as
    /// written. Where a file is mapped nothing happens: its content would come back.
    ///
    /// Each page is written first: who captures pages while the guest runs has it then, as for any other write. And again after it: who
    /// harvests what was written meanwhile has either what was there or zeros.
    pub fn discard(&self, at: u64, bytes: u64) {
        let inside = |r: &&Region| at >= r.base && at - r.base <= r.bytes && bytes <= r.bytes - (at - r.base);
        let Some(region) = self.regions.iter().find(inside) else { return };
        let is_whole = at.is_multiple_of(PAGE_SIZE as u64) && bytes.is_multiple_of(PAGE_SIZE as u64);
        if !is_whole || bytes == 0 || region.mapping.file_offset().is_some() {
            return;
        }
        for page in (at..at + bytes).step_by(PAGE_SIZE) {
            self.memory.write_obj(0_u8, GuestAddress(page)).expect("the page lies in the region");
        }
        // SAFETY: whole pages of an anonymous mapping, inside it; it lives as long as `self`. No reference of this program into
        // guest memory outlives an access, and the guest has given up what is there.
        unsafe {
            let begin = region.mapping.as_ptr().add((at - region.base) as usize);
            libc::madvise(begin.cast(), bytes as usize, libc::MADV_DONTNEED);
        }
        region.marks.mark_dirty((at - region.base) as usize, bytes as usize);
    }

    /// Region `index` as bytes, for reading a checkpoint of a stopped guest.
    pub fn region_bytes(&self, index: usize) -> &[u8] {
        let region = &self.regions[index];
        // SAFETY: the mapping is `bytes` long and lives as long as `self`; callers hold the guest stopped, so nobody
        // writes meanwhile.
        unsafe { std::slice::from_raw_parts(region.mapping.as_ptr(), region.bytes as usize) }
    }

    /// Region `index` as writable bytes, for loading a checkpoint before any vCPU or device exists.
    pub fn region_bytes_mut(&mut self, index: usize) -> &mut [u8] {
        let region = &self.regions[index];
        // SAFETY: as above, and `&mut self` excludes other users of this handle while the guest does not run.
        unsafe { std::slice::from_raw_parts_mut(region.mapping.as_ptr(), region.bytes as usize) }
    }
}

/// Maps `len` bytes, on a huge page boundary if that can be had: KVM maps huge pages only where the guest's addresses
/// and ours are aligned alike. Where it cannot, the guest is slower and nothing else.
fn map_region(len: u64, marks: &DirtyMarks) -> Result<MmapRegion<DirtyMarks>, String> {
    let mut mapping = map_anonymous(len, marks)?;
    for _ in 0..ALIGNMENT_TRIES {
        let excess = mapping.as_ptr() as usize % HUGE_PAGE_SIZE;
        if excess == 0 || len < HUGE_PAGE_SIZE as u64 {
            break;
        }
        // Linux before 6.7 puts a mapping right below its neighbour: with the excess at the upper end taken, the next
        // try lands that much lower, unless another thread maps something in between.
        let upper_end = mapping.as_ptr() as usize + len as usize - excess;
        drop(mapping);
        let spacer = map_spacer(upper_end, excess);
        let again = map_anonymous(len, marks);
        unmap_spacer(spacer, excess);
        mapping = again?;
    }
    advise_huge(&mapping);
    Ok(mapping)
}

fn map_anonymous(len: u64, marks: &DirtyMarks) -> Result<MmapRegion<DirtyMarks>, String> {
    vm_memory::mmap::MmapRegionBuilder::new_with_bitmap(len as usize, marks.clone())
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE)
        .build()
        .map_err(|e| e.to_string())
}

fn map_private(file: FileOffset, len: u64, marks: &DirtyMarks) -> Result<MmapRegion<DirtyMarks>, String> {
    vm_memory::mmap::MmapRegionBuilder::new_with_bitmap(len as usize, marks.clone())
        .with_file_offset(file)
        .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
        .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_NORESERVE)
        .build()
        .map_err(|e| e.to_string())
}

fn map_spacer(address: usize, len: usize) -> *mut libc::c_void {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without MAP_FIXED the address is a wish, and nothing that is mapped is replaced.
    unsafe { libc::mmap(address as *mut libc::c_void, len, libc::PROT_NONE, flags, -1, 0) }
}

fn unmap_spacer(spacer: *mut libc::c_void, len: usize) {
    if spacer != libc::MAP_FAILED {
        // SAFETY: `map_spacer` mapped exactly these bytes, and nobody has used them.
        unsafe { libc::munmap(spacer, len) };
    }
}

fn advise_huge(mapping: &MmapRegion<DirtyMarks>) {
    // SAFETY: the range is the mapping, and the advice changes no content. A host without huge pages refuses it, and the
    // guest runs on small ones.
    unsafe { libc::madvise(mapping.as_ptr().cast(), mapping.size(), libc::MADV_HUGEPAGE) };
}

/// Memory that was freed and that the process keeps for what it allocates next, at most: about what an epoch in bulk takes.
const HEAP_KEPT_BYTES: libc::c_int = 64 << 20;

/// The largest buffer that stays; glibc takes no larger number.
const HEAP_BUFFER_BYTES: libc::c_int = 32 << 20;

/// From now on, buffers that are freed stay with this process, up to [`HEAP_KEPT_BYTES`] for each group of threads. By default glibc
/// gives those of more than 128 KiB back at once, and the kernel clears each page again for the next epoch: a quarter of a
/// backup's time in bulk traffic.
pub fn keep_freed_heap() {
    #[cfg(target_env = "gnu")]
    for (setting, bytes) in [(libc::M_MMAP_THRESHOLD, HEAP_BUFFER_BYTES), (libc::M_TRIM_THRESHOLD, HEAP_KEPT_BYTES)] {
        // SAFETY: a call that sets a number of the allocator. One that it does not take costs time only.
        unsafe { libc::mallopt(setting, bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn layout_above_the_hole_continues_at_four_gib() {
        assert_eq!(layout(1 << 30), vec![(0, 1 << 30)]);
        assert_eq!(layout(8 << 30), vec![(0, DEVICE_HOLE_START), (1 << 32, (8 << 30) - DEVICE_HOLE_START)]);
    }

    #[test]
    fn size_that_no_guest_has_is_an_error_and_nothing_is_mapped() {
        // 2^60 bytes: the marks alone would be 2^45.
        for bytes in [0, 1, 4095, 4097, RAM_BYTES_MAX + 4096, 1 << 60, u64::MAX, !4095] {
            assert!(matches!(Ram::new(bytes), Err(MemoryError::Size { bytes: said }) if said == bytes), "{bytes}");
            assert!(deserialized(bytes).is_err());
        }
        assert_eq!(deserialized(RAM_BYTES_MAX).expect("the largest").get(), RAM_BYTES_MAX);
    }

    fn deserialized(bytes: u64) -> Result<RamBytes, serde_json::Error> {
        serde_json::from_value(bytes.into())
    }

    #[test]
    fn device_write_marks_its_page_and_is_read_back() {
        let ram = Ram::new(1 << 20).expect("1 MiB fits");
        ram.memory().write_slice(&[7; 5000], GuestAddress(4096 * 3 + 100)).expect("inside RAM");
        let mut pages = Vec::new();
        ram.regions()[0].marks.take(|word, bits| pages.extend(marks::set_bits(bits).map(|b| word * 64 + b)));
        assert_eq!(pages, vec![3, 4]);
        let mut page = [0; PAGE_SIZE];
        assert!(ram.read_page(3, &mut page));
        assert_eq!((page[99], page[100]), (0, 7));
    }

    #[test]
    fn private_copy_shows_the_file_until_it_is_written_and_never_changes_it() {
        use std::os::unix::fs::FileExt;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(4096 + (1 << 20)).expect("room");
        file.write_all_at(&[5; 4096], 4096 + 7 * 4096).expect("inside");
        let ram =
            Ram::private_copy_of(&file, 4096, RamBytes::try_from(1 << 20).expect("whole pages")).expect("it fits");
        let mut page = [0; PAGE_SIZE];
        assert!(ram.read_page(7, &mut page));
        assert_eq!(page, [5; PAGE_SIZE]);
        ram.write_page(7, &[6; PAGE_SIZE]);
        file.read_exact_at(&mut page, 4096 + 7 * 4096).expect("inside");
        assert_eq!(page, [5; PAGE_SIZE]);
    }

    #[test]
    fn discarded_pages_are_zero_count_as_written_and_are_the_hosts_again() {
        let ram = Ram::new(1 << 20).expect("1 MiB fits");
        (0..256).for_each(|gfn| assert!(ram.write_page(gfn, &[5; PAGE_SIZE])));
        ram.discard(0x3000, 0x2000);
        let mut dirty = Vec::new();
        ram.regions()[0].marks.take(|word, bits| dirty.extend(marks::set_bits(bits).map(|b| word * 64 + b)));
        assert_eq!(dirty, vec![3, 4]);
        let populated = |gfn: u64| {
            let start = ram.regions()[0].host_address() + gfn * PAGE_SIZE as u64;
            uffd::are_populated(start, 1, [0], &mut Vec::new())
        };
        assert_eq!([2, 3, 4, 5].map(populated), [true, false, false, true]);
        let mut page = [1; PAGE_SIZE];
        for (gfn, content) in [(2, 5), (3, 0), (4, 0), (5, 5)] {
            assert!(ram.read_page(gfn, &mut page));
            assert_eq!(page, [content; PAGE_SIZE], "page {gfn}");
        }
    }

    #[test]
    fn nothing_is_discarded_beyond_ram_in_parts_of_pages_or_over_a_file() {
        let ram = Ram::new(1 << 20).expect("1 MiB fits");
        (0..256).for_each(|gfn| assert!(ram.write_page(gfn, &[5; PAGE_SIZE])));
        for (at, bytes) in [(0xff000, 0x2000), (1 << 20, 0x1000), (u64::MAX - 0xfff, 0x1000), (0x1800, 0x1000), (0, 0)]
        {
            ram.discard(at, bytes);
        }
        let file = tempfile::tempfile().expect("a file");
        file.set_len(1 << 20).expect("room");
        let copy = Ram::private_copy_of(&file, 0, RamBytes::try_from(1 << 20).expect("whole pages")).expect("it fits");
        assert!(copy.write_page(7, &[5; PAGE_SIZE]));
        copy.discard(7 * PAGE_SIZE as u64, PAGE_SIZE as u64);
        let mut page = [0; PAGE_SIZE];
        for (ram, gfn) in [(&ram, 0), (&ram, 1), (&ram, 2), (&ram, 255), (&copy, 7)] {
            assert!(ram.read_page(gfn, &mut page));
            assert_eq!(page, [5; PAGE_SIZE], "page {gfn}");
        }
    }

    #[test]
    fn page_access_outside_ram_is_refused() {
        let ram = Ram::new(1 << 20).expect("1 MiB fits");
        assert!(!ram.read_page(256, &mut [0; PAGE_SIZE]));
        assert!(!ram.write_page(u64::MAX, &[0; PAGE_SIZE]));
        assert!(ram.contains(255));
    }
}
