@echo off
rem The launcher "billm" for Windows. It was not run there yet.
setlocal
set "BILLM_COMMAND=billm"
set "INIT_CWD=%CD%"
set "RUN=deno"
where deno >nul 2>nul || set "RUN=npx -y deno@2.9.6"
findstr /l /c:"		\"%~1\": {" "%~dp0deno.json" >nul 2>nul && goto task
%RUN% run -A "%~dp0tasks\billm.ts" %*
exit /b %errorlevel%
:task
%RUN% task --quiet --cwd "%~dp0." %*
exit /b %errorlevel%
