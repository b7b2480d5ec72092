//! One real machine: boots from layers, gets an address, serves a page, powers off, starts again from its disk.
//!
//! Needs root, QEMU, busybox-static and the kernel that `scripts/guest-kernel` fetches.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cirro_machine::{BootRequest, GuestCommand, MachineProcess, Machines};
use cirro_sys::netlink::Netlink;
use cirro_sys::netns::Netns;
use cirro_types::MacAddress;

const HOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 9);
/// Under translation on a busy host.
const BOOT: Duration = Duration::from_secs(90);
const END: Duration = Duration::from_secs(60);

/// A process that does not outlive the test.
struct Running(Child);

impl Running {
    fn wait(&mut self, limit: Duration) -> Option<std::process::ExitStatus> {
        let start = Instant::now();
        while start.elapsed() < limit {
            if let Some(status) = self.0.try_wait().unwrap() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn guest_kernel() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/guest-kernel");
    let output = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "scripts/guest-kernel failed");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// An image of two layers, the top one first: what is served, and busybox.
fn layers(directory: &Path) -> Vec<PathBuf> {
    let (top, bottom) = (directory.join("top"), directory.join("bottom"));
    for path in [top.join("www"), bottom.join("bin"), bottom.join("etc"), bottom.join("www")] {
        std::fs::create_dir_all(path).unwrap();
    }
    std::fs::copy("/bin/busybox", bottom.join("bin/busybox")).unwrap();
    for name in ["sh", "httpd", "id", "cat", "env", "pwd", "hostname"] {
        symlink("busybox", bottom.join("bin").join(name)).unwrap();
    }
    std::fs::write(
        bottom.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n",
    )
    .unwrap();
    std::fs::write(bottom.join("etc/group"), "root:x:0:\nweb:x:1000:\n").unwrap();
    std::fs::write(bottom.join("www/hidden"), "by the top layer").unwrap();
    std::fs::write(top.join("www/hidden"), "seen").unwrap();
    std::fs::set_permissions(top.join("www"), std::fs::Permissions::from_mode(0o777)).unwrap();
    vec![top, bottom]
}

fn request(layers: &[PathBuf], tap: OwnedFd, script: &str, user: &str) -> BootRequest {
    BootRequest {
        id: "vm-1".into(),
        hostname: "guest".into(),
        cpu: 1,
        memory: 128 << 20,
        command: GuestCommand {
            args: ["/bin/sh", "-c", script].map(String::from).to_vec(),
            env: vec!["GREETING=it's $HOME".into()],
            working_dir: "/www".into(),
            user: user.into(),
        },
        image: "0123abcd".into(),
        layers: layers.to_vec(),
        tap,
        mac: MacAddress([2, 0, 0, 0, 0, 9]),
        mtu: 1400,
        user_data: Some("#cloud-config 'x' $(y)\n".into()),
    }
}

/// Starts QEMU as the supervisor does: with the tap at number 3.
fn start(process: MachineProcess) -> Running {
    let [(3, tap)] = <[(i32, OwnedFd); 1]>::try_from(process.fds).unwrap() else {
        panic!("one descriptor, at 3")
    };
    let child = Command::new("/bin/sh")
        .args(["-c", "exec \"$@\" 3<&0 </dev/null", "sh"])
        .args(&process.args)
        .stdin(tap)
        .spawn()
        .unwrap();
    Running(child)
}

fn serve_dhcp(directory: &Path) -> Running {
    let conf = directory.join("udhcpd.conf");
    let text = format!(
        "start {GUEST}\nend {GUEST}\nmax_leases 1\ninterface t0\nlease_file {0}/leases\npidfile {0}/udhcpd.pid\n\
         opt router {HOST}\nopt dns 10.9.0.53\nopt subnet 255.255.255.0\nopt domain cloud.test\nopt mtu 1400\n",
        directory.display()
    );
    std::fs::write(&conf, text).unwrap();
    std::fs::write(directory.join("leases"), "").unwrap();
    let child = Command::new("/bin/busybox").args(["udhcpd", "-f"]).arg(&conf).spawn().unwrap();
    Running(child)
}

/// Asks for a page until there is an answer.
fn fetch(path: &str, limit: Duration) -> Option<String> {
    let start = Instant::now();
    while start.elapsed() < limit {
        if let Ok(answer) = try_fetch(path) {
            return Some(answer);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    None
}

fn try_fetch(path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::from((GUEST, 8080)), Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn root_a_machine_boots_serves_powers_off_and_keeps_its_disk() {
    let kernel = guest_kernel();
    let directory = tempfile::tempdir().unwrap();
    let root = directory.path();
    let (data, run) = (root.join("data"), root.join("run"));
    let machines = Machines::open_with_kernel(&data, &run, Some(kernel.clone())).unwrap();
    let layers = layers(root);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Netns::fresh()
        .unwrap()
        .run(|| {
            let tap = cirro_sys::tap::open("t0", false).unwrap();
            let mut netlink = Netlink::open().unwrap();
            let index = netlink.index("t0").unwrap();
            netlink.add_address(index, HOST, 24).unwrap();
            netlink.set_up(index, true).unwrap();
            let _dhcp = serve_dhcp(root);

            let script = "{ id; pwd; hostname; echo \"$GREETING\"; echo \"$HOME\"; cat /etc/resolv.conf /etc/hosts; \
                          cat /sys/class/net/eth0/mtu; cat /proc/mounts; } >state; echo serving; exec httpd -f -p 8080 -h /www";
            let prepared = machines.prepare(request(&layers, tap.try_clone().unwrap(), script, "web")).unwrap();
            assert_eq!(machines.list().unwrap(), ["vm-1"]);
            let mut qemu = start(prepared);
            let console = || std::fs::read_to_string(machines.console_path("vm-1")).unwrap_or_default();
            let Some(page) = fetch("/state", BOOT) else { panic!("no page; the console says:\n{}", console()) };
            for wanted in [
                " 200 OK\r\n",
                "uid=1000(web) gid=1000(web)",
                "\n/www\n",
                "\nguest\n",
                "\nit's $HOME\n",
                "\n/home/web\n",
                "search cloud.test\nnameserver 10.9.0.53\n",
                "10.9.0.9\tguest\n",
                "\n1400\n",
                "/dev/vda / ext4 rw",
            ] {
                assert!(page.contains(wanted), "no {wanted:?} in:\n{page}");
            }
            assert!(fetch("/hidden", END).unwrap().ends_with("seen"));
            assert!(console().contains("serving\n"));
            assert_eq!(runtime.block_on(machines.status("vm-1")).unwrap(), "running");

            runtime.block_on(machines.power_down("vm-1")).unwrap();
            let ended = qemu.wait(END);
            assert!(ended.is_some_and(|status| status.success()), "{ended:?}; the console says:\n{}", console());
            assert!(console().contains("cirro: the command ended with exit code 143\n"), "{}", console());

            // A daemon that starts anew keeps the base disk; the machine finds what it wrote.
            let machines = Machines::open_with_kernel(&data, &run, Some(kernel)).unwrap();
            let script = "cat state /var/lib/cirro/user-data; exit 3";
            let mut other = request(&layers, tap.try_clone().unwrap(), script, "");
            other.image = "another".into();
            assert!(machines.prepare(other).is_err(), "its disk is of another image");
            let prepared = machines.prepare(request(&layers, tap, script, "")).unwrap();
            let mut qemu = start(prepared);
            assert!(qemu.wait(BOOT).is_some_and(|status| status.success()), "{}", console());
            for wanted in ["uid=1000(web)", "#cloud-config 'x' $(y)\n", "ended with exit code 3\n"] {
                assert!(console().contains(wanted), "no {wanted:?} in:\n{}", console());
            }
            machines.remove("vm-1").unwrap();
            machines.remove("vm-1").unwrap();
            assert!(machines.list().unwrap().is_empty());
            assert_eq!(std::fs::read_dir(run.join("machines")).unwrap().count(), 0);
            Machines::open(&data, &run).unwrap();
            assert_eq!(std::fs::read_dir(data.join("machines/images")).unwrap().count(), 0);
        })
        .unwrap();
}
